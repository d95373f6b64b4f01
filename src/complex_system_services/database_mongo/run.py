"""Runs the service."""

from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService

if __name__ == "__main__":
    DatabaseMongoService.main()
