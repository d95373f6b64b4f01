"""Alerts: rules, when they are broken, what they say, and the webhook. Pure but for the webhook; no broker, no database."""
