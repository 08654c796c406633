"""Container terminal-sidecar: browser <-WebSocket-> SSH into the guest. Never a shell outside the guest."""
