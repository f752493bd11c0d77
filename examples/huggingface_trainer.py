"""Hugging Face's Trainer with an optimizer and a schedule of optzoo: a small transformer reads Shakespeare's sonnets.

pip install "optzoo[huggingface]"
python huggingface_trainer.py
"""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from optzoo.compare import sonnets
from optzoo.integrations.huggingface import ScheduleMixin
from optzoo.optimizers import CAdamW, Lookahead


class ScheduledTrainer(ScheduleMixin, Trainer):
    """Takes schedule=."""


LENGTH = 64
text = sonnets()
symbols = sorted(set(text))
tokens = torch.tensor([symbols.index(symbol) for symbol in text])
pieces = [{"input_ids": piece, "labels": piece} for piece in tokens.split(LENGTH)[:-1]]

set_seed(0)
torch.set_num_threads(1)  # enough for so small a model
config = LlamaConfig(
    vocab_size=len(symbols), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
)
with tempfile.TemporaryDirectory() as directory:
    trainer = ScheduledTrainer(
        model=LlamaForCausalLM(config),
        args=TrainingArguments(
            directory,
            max_steps=100,
            per_device_train_batch_size=8,
            weight_decay=0.1,  # of matrices; the Trainer leaves biases and norms out
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=pieces,
        optimizer_cls_and_kwargs=(Lookahead, {"base": CAdamW, "lr": 1e-2, "k": 5}),
        schedule="wsd,warmup=0.1,cooldown=0.3,shape=sqrt",
    )
    trainer.train()

for entry in trainer.state.log_history[:-1]:
    print(f"step {entry['step']:3}  lr {entry['learning_rate']:.4f}  nats per symbol {entry['loss']:.3f}")
