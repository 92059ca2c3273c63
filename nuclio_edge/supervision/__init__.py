"""Who watches over the processor: systemd, the watchdog, and what is made of how the last process ended."""
