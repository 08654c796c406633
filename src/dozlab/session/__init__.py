"""One machine: the Pod without Kubernetes. Namespace, supervisor, state. Composes the five components."""
