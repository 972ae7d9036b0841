"""Jobs: requests are accepted, queued, rendered, published and looked up here."""
