"""Why a model predicts what it predicts, by raw column. Knows models by what they answer only."""
