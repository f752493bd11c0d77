"""Framework integrations of optzoo, one module per framework, each importable only where its framework is installed."""
