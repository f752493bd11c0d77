"""Learning-rate schedules of optzoo. They know torch only; this release has none, torch.optim.lr_scheduler works."""
