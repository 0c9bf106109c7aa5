"""From numbers to claims: records of runs, statistics, and the rules that decide."""
