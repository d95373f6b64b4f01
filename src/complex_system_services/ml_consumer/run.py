"""Runs the service."""

from complex_system_services.ml_consumer.ml_consumer_service import MlConsumerService

if __name__ == "__main__":
    MlConsumerService.main()
