"""Runs the service."""

from complex_system_services.database_maria.database_maria_service import DatabaseMariaService

if __name__ == "__main__":
    DatabaseMariaService.main()
