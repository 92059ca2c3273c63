"""The sync agent (device side) and the control plane (server side). The runtime never imports this package."""
