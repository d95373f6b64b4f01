"""Makes records of single readings: readings in, complete records out, at constant memory. No broker, no database.

Times are whole microseconds since 1970 (UTC), as FastIoT's Things have them.
"""

from complex_system.collection.collector import Collector
from complex_system.collection.readings import Readings
from complex_system.collection.results import Checkpoint, CollectedRecord, SensorState, WaitingRecord

__all__ = ["Checkpoint", "CollectedRecord", "Collector", "Readings", "SensorState", "WaitingRecord"]
