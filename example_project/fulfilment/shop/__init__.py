"""A shop at work for as long as the admin is shown: express orders in every state, some of them held by workers."""
