"""Stages of curation: each is a callable `Document -> Document | Drop`, made once per worker from its own section.

A stage never raises on bad text and never prints. Rules inside are pure functions of (Signals, limits).
"""
