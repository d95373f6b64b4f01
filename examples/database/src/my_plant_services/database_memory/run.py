"""Runs the service."""

from my_plant_services.database_memory.database_memory_service import DatabaseMemoryService

if __name__ == "__main__":
    DatabaseMemoryService.main()
