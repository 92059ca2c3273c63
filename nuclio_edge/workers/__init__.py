"""Who runs handlers: worker threads, asyncio loops and worker processes, and what waits for them."""
