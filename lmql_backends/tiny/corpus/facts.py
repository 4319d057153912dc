"""Well-known facts."""

from __future__ import annotations

from lmql_backends.tiny.corpus.lists import pairs, spaced_words

CAPITALS = pairs(
    "France=Paris, Germany=Berlin, Italy=Rome, Spain=Madrid, Portugal=Lisbon, Norway=Oslo, "
    "Sweden=Stockholm, Denmark=Copenhagen, Finland=Helsinki, Poland=Warsaw, Austria=Vienna, "
    "Greece=Athens, Turkey=Ankara, Egypt=Cairo, Kenya=Nairobi, Nigeria=Abuja, India=Delhi, "
    "China=Beijing, Japan=Tokyo, Brazil=Brasilia, Chile=Santiago, Peru=Lima, Canada=Ottawa, "
    "Mexico=Mexico City, Ireland=Dublin, Scotland=Edinburgh, Iceland=Reykjavik, Hungary=Budapest, "
    "Russia=Moscow, Ukraine=Kyiv, England=London, Belgium=Brussels, Switzerland=Bern, Cuba=Havana, "
    "Iran=Tehran, Iraq=Baghdad, Thailand=Bangkok, Vietnam=Hanoi, Australia=Canberra, "
    "Romania=Bucharest, Bulgaria=Sofia, Croatia=Zagreb, Serbia=Belgrade, Czechia=Prague, "
    "Slovakia=Bratislava, Latvia=Riga, Estonia=Tallinn, Malta=Valletta"
)
CONTINENTS = {
    "Europe": spaced_words(
        "France Germany Italy Spain Portugal Norway Sweden Denmark Finland Poland Austria Greece Ireland"
    ),
    "Africa": spaced_words("Egypt Kenya Nigeria Ghana Morocco Algeria Ethiopia"),
    "Asia": spaced_words("India China Japan Iran Iraq Thailand Vietnam"),
    "South America": spaced_words("Brazil Chile Peru Bolivia Argentina"),
    "North America": spaced_words("Canada Mexico Cuba"),
}
OPPOSITES = pairs(
    "hot=cold, big=small, tall=short, old=young, new=old, fast=slow, good=bad, happy=sad, light=dark, "
    "up=down, left=right, open=closed, full=empty, hard=soft, wet=dry, rich=poor, strong=weak, "
    "early=late, high=low, clean=dirty, loud=quiet, thick=thin, near=far, first=last, day=night, "
    "black=white, love=hate, win=lose, buy=sell, true=false, easy=difficult, sweet=sour, heavy=light, "
    "inside=outside, always=never, summer=winter, north=south, east=west, begin=end, yes=no"
)
COLOUR_OF = pairs(
    "the sky=blue, grass=green, snow=white, coal=black, blood=red, a banana=yellow, a lemon=yellow, "
    "the sun=yellow, milk=white, a carrot=orange, a tomato=red, a crow=black, chocolate=brown, "
    "an emerald=green, a ruby=red, salt=white"
)
LEGS = pairs("dog=4, cat=4, horse=4, cow=4, spider=8, bird=2, ant=6, bee=6, snake=0, fish=0")
SOUNDS = pairs(
    "dog=barks, cat=meows, cow=moos, duck=quacks, lion=roars, wolf=howls, pig=grunts, snake=hisses, "
    "bee=buzzes"
)
MISCELLANY = (
    ("How many days are in a week?", "7"),
    ("How many months are in a year?", "12"),
    ("How many hours are in a day?", "24"),
    ("How many minutes are in an hour?", "60"),
    ("How many seconds are in a minute?", "60"),
    ("How many sides has a triangle?", "3"),
    ("How many sides has a square?", "4"),
    ("How many wheels has a bicycle?", "2"),
    ("How many wheels has a car?", "4"),
    ("How many letters has the alphabet?", "26"),
    ("What is the largest planet?", "Jupiter"),
    ("Which planet is closest to the sun?", "Mercury"),
    ("Which planet do we live on?", "Earth"),
    ("What is water made of?", "hydrogen and oxygen"),
    ("What do bees make?", "honey"),
    ("What do cows give us?", "milk"),
    ("What do plants need to grow?", "light and water"),
    ("What is ice?", "frozen water"),
    ("What is the largest ocean?", "the Pacific Ocean"),
    ("What is the highest mountain?", "Mount Everest"),
    ("What is the longest river in Africa?", "the Nile"),
    ("Who wrote Hamlet?", "William Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("Who wrote Faust?", "Goethe"),
    ("What language is spoken in Brazil?", "Portuguese"),
    ("What language is spoken in Austria?", "German"),
    ("What language is spoken in Mexico?", "Spanish"),
    ("What language is spoken in France?", "French"),
    ("What is the boiling point of water?", "100 degrees"),
    ("What is the freezing point of water?", "0 degrees"),
    ("What is a baby dog called?", "a puppy"),
    ("What is a baby cat called?", "a kitten"),
    ("Which season comes after winter?", "spring"),
    ("Which season comes after spring?", "summer"),
)
