"""Runs the service."""

from complex_system_services.data_processing.data_processing_service import DataProcessingService

if __name__ == "__main__":
    DataProcessingService.main()
