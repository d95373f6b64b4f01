"""From a model source to predictions over REST and broker; no training framework is imported here."""
