"""From chapters to pages: papermill runs them, the book is built of what they wrote."""
