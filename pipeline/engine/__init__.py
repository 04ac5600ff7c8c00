"""Where stages run: plan, task, exchange, executors, storage, manifest, account."""
