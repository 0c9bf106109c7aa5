from kdrepro import data, training
from kdrepro.networks import MLP

digits = data.digits()
teacher, student = MLP([64, 256, 256, 10], hidden_dropout=0.2), MLP([64, 32, 10])
recipe = training.Recipe(epochs=30, learning_rate=3e-3)

batches = training.Batches(digits.train_images, digits.train_labels, batch_size=32, jitter=1)
training.fit(teacher, batches, training.hard_targets, recipe)

soft = training.logits(teacher, digits.train_images)
batches = training.Batches(digits.train_images, digits.train_labels, batch_size=32, teacher_logits=soft)
training.fit(student, batches, training.soft_targets(temperature=4, soft_weight=0.9), recipe)

predicted = training.logits(student, digits.test_images).argmax(1)
print("test errors of the student:", (predicted != digits.test_labels).sum().item())
