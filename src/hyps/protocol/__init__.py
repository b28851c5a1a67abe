"""The sans-IO core: records, the wire, both ends of a connection, and the broker between them.

It imports the standard library alone, knows no clock and does no I/O: time and ids are passed in.
Embed it in a transport of your own, or read what :mod:`hyps` does with it.
"""

from ._broker.broker import Broker as Broker
from ._broker.stats import Stats as Stats
from ._records.decoding import RecordDecoder as RecordDecoder
from ._records.decoding import records as records
from ._records.layout import encode as encode
from ._records.runs import Batch as Batch
from ._records.runs import Message as Message
from ._records.runs import Run as Run
from ._session.access import Access as Access
from ._session.access import Verb as Verb
from ._session.client import ClientProtocol as ClientProtocol
from ._session.endpoint import FEATURES as FEATURES
from ._session.server import ServerProtocol as ServerProtocol
from ._session.states import State as State
from ._wire.base import Wire as Wire
from ._wire.frames import PREFACE as PREFACE
from ._wire.frames import FrameDecoder as FrameDecoder
from ._wire.frames import Kind as Kind
from ._wire.frames import encode_frame as encode_frame
from .errors import ErrorCode as ErrorCode
from .errors import HypsError as HypsError
from .errors import InvalidChannel as InvalidChannel
from .errors import LocalProtocolError as LocalProtocolError
from .errors import MalformedRecord as MalformedRecord
from .errors import MessageTooLarge as MessageTooLarge
from .errors import PermissionDenied as PermissionDenied
from .errors import ProtocolError as ProtocolError
from .errors import RemoteProtocolError as RemoteProtocolError
from .errors import Unavailable as Unavailable
from .events import NEED_DATA as NEED_DATA
from .events import Acked as Acked
from .events import ClientEvent as ClientEvent
from .events import Closed as Closed
from .events import Gap as Gap
from .events import GapReason as GapReason
from .events import GoingAway as GoingAway
from .events import Hello as Hello
from .events import Lost as Lost
from .events import Messages as Messages
from .events import NeedData as NeedData
from .events import PeerError as PeerError
from .events import Refusal as Refusal
from .events import Rejected as Rejected
from .events import ServerEvent as ServerEvent
from .events import Taken as Taken
from .events import TokenExpiry as TokenExpiry
from .events import TokenOffered as TokenOffered
from .events import Welcome as Welcome
from .limits import Limits as Limits

__all__ = (
    "FEATURES",
    "NEED_DATA",
    "PREFACE",
    "Access",
    "Acked",
    "Batch",
    "Broker",
    "ClientEvent",
    "ClientProtocol",
    "Closed",
    "ErrorCode",
    "FrameDecoder",
    "Gap",
    "GapReason",
    "GoingAway",
    "Hello",
    "HypsError",
    "InvalidChannel",
    "Kind",
    "Limits",
    "LocalProtocolError",
    "Lost",
    "MalformedRecord",
    "Message",
    "MessageTooLarge",
    "Messages",
    "NeedData",
    "PeerError",
    "PermissionDenied",
    "ProtocolError",
    "RecordDecoder",
    "Refusal",
    "Rejected",
    "RemoteProtocolError",
    "Run",
    "ServerEvent",
    "ServerProtocol",
    "State",
    "Stats",
    "Taken",
    "TokenExpiry",
    "TokenOffered",
    "Unavailable",
    "Verb",
    "Welcome",
    "Wire",
    "encode",
    "encode_frame",
    "records",
)
