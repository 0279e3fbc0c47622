"""Curation on Apache Beam: documents in, better documents and token shards out. Imports no JAX."""
