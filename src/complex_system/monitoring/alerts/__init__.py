"""Alerts: the rules, when they are broken, and what an alert says. Pure: no broker, no database, no network."""
