"""The page of the monitoring: a Dash application over the history, mounted beside the REST interface. It changes nothing."""
