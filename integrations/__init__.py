"""Framework integrations of optzoo, a module or package per framework, which says what to install where it is missing.

- :mod:`optzoo.integrations.lightning`: Lightning's Trainer and command line.
- :mod:`optzoo.integrations.huggingface`: Hugging Face's Trainer.
- :mod:`optzoo.integrations.tensorboard`: TensorBoard, in a training loop of one's own.
"""
