"""A fleet of hubs shares its channels over an engine, Redis or Valkey: the client of the engine.

What the hub sees of it is :class:`~hyps._fleet.connection.EngineConnection`, one connection to one
node, and :func:`~hyps._fleet.discovery.discover`, which finds out what nodes there are.
"""
