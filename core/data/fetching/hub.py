"""stub"""
class HubPixels:
    def read(self, url: str) -> bytes:
        raise NotImplementedError
