"""The trainer services over the broker: requests, schedule, and one training. Fitting is in ``training``, logging in ``tracking``."""
