"""Roles that act: policy, collector, evaluator. Plain classes."""
