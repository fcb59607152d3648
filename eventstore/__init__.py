"""What happened, and the collected rows: events sealed into streams, batches into a store."""
