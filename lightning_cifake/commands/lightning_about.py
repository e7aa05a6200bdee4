"""What ``fit --help``, ``validate --help`` and ``test --help`` say before they list every argument."""

ABOUT = {
    "fit": """Trains, then tests the best epoch once and writes the report and the pictures. Everything of a run lies in
one folder, checkpoints/<config>/<number>.

examples:
  python -m lightning_cifake fit                                           the built-in demo data
  python -m lightning_cifake fit --config clean --data.root CIFAKE.zip
  python -m lightning_cifake fit --config official --config t4 --data.root CIFAKE.zip --trainer.max_epochs 30
  python -m lightning_cifake fit --config official --data.root CIFAKE.zip --model.optimizer SGDW \
      --model.learning_rate 0.2 --model.scheduler OneCycle --model.loss SmoothedBCE --model.ema_decay 0.999
  python -m lightning_cifake fit --data.root photos/ --data.classes fake=ai,real=nature --data.image_size 64
  python -m lightning_cifake fit --ckpt_path checkpoints/clean/1/last.ckpt     resumes the run where it stopped
  python -m lightning_cifake fit --config clean --print_config > mine.yaml     then: fit --config mine.yaml
""",
    "validate": """Measures a checkpoint on its validation images: those that its run validated on.

examples:
  python -m lightning_cifake validate                                      the newest checkpoint
  python -m lightning_cifake validate --ckpt_path checkpoints/clean/1/best.ckpt
""",
    "test": """Measures a checkpoint on its test images, and writes the report and the pictures beside it.

examples:
  python -m lightning_cifake test                                          the newest checkpoint
  python -m lightning_cifake test --ckpt_path checkpoints/clean/1/best.ckpt
  python -m lightning_cifake test --ckpt_path best.ckpt --data.root CIFAKE.zip --data.protocol official
""",
}
