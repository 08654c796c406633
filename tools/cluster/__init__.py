"""A real Kubernetes of one node, for tests and for people without kind or minikube: see README.md here.

Nothing of Dozlab itself belongs here: the cluster knows no sessions and no charts.
"""
