"""A backend of Django's whose connections go to one node of a cluster after the other, as through a balancer."""
