"""The network between instances: transfers that share links max-min fairly."""
