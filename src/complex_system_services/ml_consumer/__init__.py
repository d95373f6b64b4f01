"""ml_consumer: has models trained and compared, makes the best one champion, and consumes predictions."""
