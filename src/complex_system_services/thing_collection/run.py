"""Runs the service."""

from complex_system_services.thing_collection.thing_collection_service import ThingCollectionService

if __name__ == "__main__":
    ThingCollectionService.main()
