"""The serving system: schedulers, KV caches, engines, routers, workloads and their records."""
