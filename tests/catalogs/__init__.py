"""What tests of the catalog stand on: a driver for its RPCs and a model of gateway, worker and providers."""
