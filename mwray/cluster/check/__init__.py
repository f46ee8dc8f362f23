"""Is a cluster file sound, before anything is started or paid for? `python launch/cluster_check.py cluster.yaml`."""
