"""Watches services, machines, predictions and data: messages and records in, figures, history, alerts and views out.

No broker and no database: `service_layer.monitoring` connects them. The page is in `page/`, and nothing outside of it imports Dash.
"""
