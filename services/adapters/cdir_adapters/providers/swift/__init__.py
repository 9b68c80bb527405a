"""The ``swift`` kind: OpenStack Swift and services that speak its protocol, over plain HTTP."""

from cdir_adapters.providers.swift.adapter import SwiftAdapter

__all__ = ["SwiftAdapter"]
