"""The real Flux controllers as processes of this machine, for tests against the cluster of tools/cluster.

Nothing of Dozlab itself belongs here: no chart, no session.
"""
