"""The words people and groups are made of, and the licences of the public Microsoft product list.

Part numbers and ids: learn.microsoft.com, "Product names and service plan identifiers for licensing".
"""

from __future__ import annotations

from typing import NamedTuple

SKU_IDS = {
    "SPE_E5": "06ebc4ee-1bb5-47dd-8120-11324bc54e06",
    "SPE_E3": "05e9a617-0261-4cee-bb44-138d3ef5d965",
    "ENTERPRISEPACK": "6fd2c87f-b296-42f0-b197-1e91e994b900",
    "SPE_F1": "66b55226-6b4f-492c-910c-a3b7a3c9d993",
    "POWER_BI_PRO": "f8a1db68-be16-40ed-86d5-cb42ce701560",
    "VISIOCLIENT": "c5928f49-12ba-48f7-ada3-0d743a3601d5",
    "PROJECTPROFESSIONAL": "53818b1b-4a27-454b-8896-0dba576410e6",
}
WITH_MAILBOX = frozenset(SKU_IDS[part] for part in ("SPE_E5", "SPE_E3", "ENTERPRISEPACK", "SPE_F1"))


class Department(NamedTuple):
    """`suites` are part numbers, the usual one first; `addition` is what some of its people hold besides."""

    name: str
    leaders: tuple[str, ...]
    titles: tuple[str, ...]
    suites: tuple[str, ...]
    addition: str | None


DEPARTMENTS = (
    Department(
        "Sales",
        ("Sales Director", "Regional Sales Manager"),
        ("Account Executive", "Account Manager", "Sales Engineer", "Sales Operations Analyst", "Inside Sales Rep"),
        ("SPE_E3", "ENTERPRISEPACK", "SPE_E5"),
        "POWER_BI_PRO",
    ),
    Department(
        "Operations",
        ("Operations Director", "Shift Manager"),
        ("Machine Operator", "Warehouse Associate", "Dispatcher", "Quality Inspector", "Maintenance Technician"),
        ("SPE_F1", "ENTERPRISEPACK"),
        None,
    ),
    Department(
        "Engineering",
        ("Engineering Director", "Engineering Manager"),
        ("Software Engineer", "Senior Engineer", "Test Engineer", "Site Reliability Engineer", "Product Designer"),
        ("SPE_E3", "SPE_E5", "ENTERPRISEPACK"),
        "VISIOCLIENT",
    ),
    Department(
        "Customer Service",
        ("Head of Customer Service", "Team Lead"),
        ("Support Agent", "Senior Support Agent", "Knowledge Editor", "Complaints Specialist"),
        ("ENTERPRISEPACK", "SPE_F1", "SPE_E3"),
        None,
    ),
    Department(
        "Finance",
        ("Finance Director", "Controller"),
        ("Accountant", "Accounts Payable Clerk", "Financial Analyst", "Payroll Specialist", "Internal Auditor"),
        ("SPE_E5", "SPE_E3", "ENTERPRISEPACK"),
        "POWER_BI_PRO",
    ),
    Department(
        "IT",
        ("Head of IT", "Infrastructure Manager"),
        ("Systems Administrator", "Help Desk Technician", "Security Analyst", "Network Engineer", "Cloud Architect"),
        ("SPE_E5", "SPE_E3"),
        "PROJECTPROFESSIONAL",
    ),
    Department(
        "Marketing",
        ("Marketing Director", "Campaign Manager"),
        ("Copywriter", "Brand Designer", "Content Strategist", "Event Planner", "Market Researcher"),
        ("SPE_E3", "ENTERPRISEPACK"),
        "POWER_BI_PRO",
    ),
    Department(
        "Human Resources",
        ("HR Director", "HR Manager"),
        ("Recruiter", "HR Generalist", "Learning Specialist", "Compensation Analyst"),
        ("SPE_E3", "SPE_E5"),
        None,
    ),
    Department(
        "Legal",
        ("General Counsel", "Head of Compliance"),
        ("Counsel", "Paralegal", "Compliance Officer", "Contract Manager"),
        ("SPE_E5", "SPE_E3"),
        None,
    ),
)
DEPARTMENT_WEIGHTS = (20, 24, 17, 12, 8, 6, 6, 4, 3)

OFFICES = (
    ("Lisbon HQ", "Lisbon", "Portugal"),
    ("Porto Plant", "Porto", "Portugal"),
    ("Berlin", "Berlin", "Germany"),
    ("Munich", "Munich", "Germany"),
    ("London Bridge", "London", "United Kingdom"),
    ("Leeds Depot", "Leeds", "United Kingdom"),
    ("Chicago Loop", "Chicago", "United States"),
    ("Austin", "Austin", "United States"),
    ("Toronto", "Toronto", "Canada"),
    ("São Paulo", "São Paulo", "Brazil"),
    ("Warsaw", "Warsaw", "Poland"),
    ("Singapore", "Singapore", "Singapore"),
    ("Pune", "Pune", "India"),
    ("Osaka", "Osaka", "Japan"),
)

PARTNERS = (
    ("Fabrikam", "fabrikam.example"),
    ("Litware", "litware.example"),
    ("Proseware", "proseware.example"),
    ("Tailspin Toys", "tailspin.example"),
    ("Wingtip", "wingtip.example"),
    ("Adatum", "adatum.example"),
)

TENANT_NAMES = (
    "Northwind Traders",
    "Alpine Ski House",
    "Blue Yonder Airlines",
    "City Power & Light",
    "Coho Winery",
    "Fourth Coffee",
    "Graphic Design Institute",
    "Humongous Insurance",
    "Lucerne Publishing",
    "Margie's Travel",
    "Relecloud",
    "School of Fine Art",
    "Southridge Video",
    "Trey Research",
    "VanArsdel",
    "Wide World Importers",
    "Woodgrove Bank",
    "Best For You Organics",
)

GROUP_TOPICS = (
    "Finance", "Sales EMEA", "Sales Americas", "Lisbon", "Berlin", "Chicago", "Product", "Platform", "Security",
    "Budget 2026", "Onboarding", "Works Council", "Helpdesk", "VPN", "Payroll", "Warehouse", "Fleet", "Procurement",
    "Brand", "Website", "Data Platform", "Mobile App", "Customer Voice", "Quality", "Travel", "Sustainability",
)  # fmt: skip
GROUP_NOUNS = (
    "Team", "Managers", "Users", "Project", "Announcements", "Approvers", "Reports", "Steering", "On-Call", "Owners",
    "Reviewers", "Guests", "Community", "Licences",
)  # fmt: skip

GIVEN_NAMES = (
    "Ana", "João", "Inês", "Tiago", "Beatriz", "Miguel", "Sofia", "Rui", "Lena", "Jürgen", "Anke", "Björn", "Klaus",
    "Greta", "Oliver", "Amelia", "Harry", "Isla", "Jack", "Poppy", "Emily", "James", "Olivia", "Noah", "Ava", "Liam",
    "Mia", "Ethan", "Chloé", "Élodie", "Mathieu", "Camille", "Łukasz", "Agnieszka", "Paweł", "Zofia", "Priya", "Arjun",
    "Ananya", "Rohan", "Kavya", "Wei", "Mei", "Jun", "Hiroshi", "Yuki", "Sakura", "Kenji", "Fatima", "Omar", "Layla",
    "Yusuf", "Amina", "Chidi", "Ngozi", "Kwame", "Zanele", "Thabo", "Søren", "Freja", "Åsa", "Mikko", "Aino", "Lucía",
    "Mateo", "Valentina", "Diego", "Camila", "Andrés", "Marek", "Ivana", "Dmitri", "Olga", "Nadia", "Viktor", "Elena",
)  # fmt: skip
SURNAMES = (
    "Silva", "Santos", "Ferreira", "Gonçalves", "Oliveira", "Müller", "Schmidt", "Schneider", "Weiß", "Becker", "Smith",
    "Jones", "Taylor", "Brown", "Williams", "O'Connor", "Murphy", "Evans", "Johnson", "Miller", "Davis", "Garcia",
    "Martínez", "Rodríguez", "Hernández", "López", "Dubois", "Lefèvre", "Moreau", "Kowalski", "Nowak", "Wiśniewska",
    "Zielińska", "Sharma", "Patel", "Singh", "Gupta", "Iyer", "Chen", "Wang", "Li", "Zhang", "Tanaka", "Suzuki", "Sato",
    "Kobayashi", "Hassan", "Ahmed", "Rahman", "Okafor", "Mensah", "Dlamini", "Nkosi", "Nielsen", "Hansen", "Ødegård",
    "Lindqvist", "Virtanen", "Korhonen", "Costa", "Rossi", "Bianchi", "Romano", "Novák", "Horvat", "Ivanov", "Petrova",
    "Papadopoulos", "Özdemir", "Demir", "Cohen", "Levi", "Nguyen", "Tran", "Kim", "Park", "Lee", "Reyes", "Cruz", "Lim",
)  # fmt: skip

WITHOUT_ACCENT_FORM = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "å": "a", "Å": "A"})
"""Letters that Unicode does not decompose into a Latin letter and an accent."""
