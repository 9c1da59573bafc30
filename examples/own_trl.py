"""TRL's trainer with the data and the rewards of a config of gpg_vl."""

from trl import GRPOConfig, GRPOTrainer

from gpg_vl.integrations.trl import dataset, reward

trainer = GRPOTrainer(
    "Qwen/Qwen2.5-VL-3B-Instruct",
    reward_funcs=[reward(style="answer", frame="qwen2_5_vl")],
    train_dataset=dataset("digits"),
    args=GRPOConfig(output_dir="runs/trl", max_steps=100),
)
trainer.train()
