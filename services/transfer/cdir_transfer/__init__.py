"""Moving contents between a process and providers, by AdapterService alone: verified reading, fanned-out writing."""
