"""Runs the service."""

from complex_system_services.ml_serving.ml_serving_service import MlServingService

if __name__ == "__main__":
    MlServingService.main()
