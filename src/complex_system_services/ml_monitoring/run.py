"""Runs the service."""

from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService

if __name__ == "__main__":
    MlMonitoringService.main()
