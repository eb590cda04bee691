from tokenworks.subscriptions.access import Access
from tokenworks.subscriptions.days import day_of, end_of_day, last_day, minute_of, second_of
from tokenworks.subscriptions.errors import BroadbandMissing, BroadbandTaken, CapBelowSpent, ChangeNotAllowed, ConsentNeeded, ConsentTextChanged, DeliveredAlready, HadAlready, IdentityKnown, MemberExists, MemberNotFound, NeedsFirst, NotEligible, NotSuspended, OrderNotFound, OtherAudience, PhoneLost, PhoneTaken, ProductEnded, ProductNotFound, RealNameNeeded, RealNameRefused, SecondNotConfirmed, SeveralFound, StepsThere, SubscriberNotActive, SubscriberNotFound, TooManyToCome, TopUpNotAllowed, TopUpNotFound, WorkOrderAnswered, WorkOrderNotFound
from tokenworks.subscriptions.hub.notices import Notice, Notices, text_of
from tokenworks.subscriptions.hub.service import Api, Delivery, DeliveryNotFound, EVENTS, Event, Hub, Listener, ListenerNotFound, content_of, signature
from tokenworks.subscriptions.limited import limited
from tokenworks.subscriptions.model import BILLING_ZONE, CapPeriod, ConsentText, ContractPrice, Member, Order, PrivacyRules, Product, SUSPENSIONS, Stops, Subscriber, Suspension, SuspensionCause, TopUp, WorkOrder, add_months, bill_period_end, check_idempotency_key, month_start, next_month, parse_phone
from tokenworks.subscriptions.orders.change import When
from tokenworks.subscriptions.orders.deliveries import Deliveries
from tokenworks.subscriptions.orders.eligibility import Eligibility, LIVE, Offer, acts_with
from tokenworks.subscriptions.orders.moves import Holder, Moved, Moves, SoldVersion
from tokenworks.subscriptions.orders.proration import unearned
from tokenworks.subscriptions.orders.quotes import Quote, QuoteLine, Quotes
from tokenworks.subscriptions.orders.sales import Sales
from tokenworks.subscriptions.orders.service import Orders
from tokenworks.subscriptions.orders.starts import START_DAYS_MAX
from tokenworks.subscriptions.payg import PayAsYouGo
from tokenworks.subscriptions.people.consents import ConsentState, ConsentTexts, Consents, PURPOSES
from tokenworks.subscriptions.people.member_rights import MemberRights
from tokenworks.subscriptions.people.members import Members
from tokenworks.subscriptions.people.people_store import lock_subscriber, subscriber_columns
from tokenworks.subscriptions.people.privacy import Erasure, Privacy, RealNameAnswer, RealNameCheck
from tokenworks.subscriptions.rights import check_control, check_invited_role, check_last_digits, check_own_broadband, check_own_lift, check_rank, may_manage
from tokenworks.subscriptions.served import Served, ServedKeys, Versions
from tokenworks.subscriptions.service import Subscriptions
from tokenworks.subscriptions.sign_ins import Entered, SendCode, SignIns, normal_number
from tokenworks.texts import LANGUAGES
from tokenworks.trust.identity.answers import KeyReused

__all__ = [
    "Access",
    "Api",
    "BILLING_ZONE",
    "BroadbandMissing",
    "BroadbandTaken",
    "CapBelowSpent",
    "CapPeriod",
    "ChangeNotAllowed",
    "ConsentNeeded",
    "ConsentState",
    "ConsentText",
    "ConsentTextChanged",
    "ConsentTexts",
    "Consents",
    "ContractPrice",
    "DeliveredAlready",
    "Deliveries",
    "Delivery",
    "DeliveryNotFound",
    "EVENTS",
    "Eligibility",
    "Entered",
    "Erasure",
    "Event",
    "HadAlready",
    "Holder",
    "Hub",
    "IdentityKnown",
    "KeyReused",
    "LANGUAGES",
    "LIVE",
    "Listener",
    "ListenerNotFound",
    "Member",
    "MemberExists",
    "MemberNotFound",
    "MemberRights",
    "Members",
    "Moved",
    "Moves",
    "NeedsFirst",
    "NotEligible",
    "NotSuspended",
    "Notice",
    "Notices",
    "Offer",
    "Order",
    "OrderNotFound",
    "Orders",
    "OtherAudience",
    "PURPOSES",
    "PayAsYouGo",
    "PhoneLost",
    "PhoneTaken",
    "Privacy",
    "PrivacyRules",
    "Product",
    "ProductEnded",
    "ProductNotFound",
    "Quote",
    "QuoteLine",
    "Quotes",
    "RealNameAnswer",
    "RealNameCheck",
    "RealNameNeeded",
    "RealNameRefused",
    "START_DAYS_MAX",
    "SUSPENSIONS",
    "Sales",
    "SecondNotConfirmed",
    "SendCode",
    "Served",
    "ServedKeys",
    "SeveralFound",
    "SignIns",
    "SoldVersion",
    "StepsThere",
    "Stops",
    "Subscriber",
    "SubscriberNotActive",
    "SubscriberNotFound",
    "Subscriptions",
    "Suspension",
    "SuspensionCause",
    "TooManyToCome",
    "TopUp",
    "TopUpNotAllowed",
    "TopUpNotFound",
    "Versions",
    "When",
    "WorkOrder",
    "WorkOrderAnswered",
    "WorkOrderNotFound",
    "acts_with",
    "add_months",
    "bill_period_end",
    "check_control",
    "check_idempotency_key",
    "check_invited_role",
    "check_last_digits",
    "check_own_broadband",
    "check_own_lift",
    "check_rank",
    "content_of",
    "day_of",
    "end_of_day",
    "last_day",
    "limited",
    "lock_subscriber",
    "may_manage",
    "minute_of",
    "month_start",
    "next_month",
    "normal_number",
    "parse_phone",
    "second_of",
    "signature",
    "subscriber_columns",
    "text_of",
    "unearned",
]
