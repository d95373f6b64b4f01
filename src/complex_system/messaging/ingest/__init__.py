"""Records from publishers that do not wait for a reply: JetStream keeps them until the database has them."""
