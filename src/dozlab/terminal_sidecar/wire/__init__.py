"""Between the WebSocket and a shell: how frames come and go without a task in between."""
