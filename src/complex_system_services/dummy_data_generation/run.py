"""Runs the service."""

from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService

if __name__ == "__main__":
    DummyDataGenerationService.main()
